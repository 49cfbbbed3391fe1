from shop import create_app

app = application = create_app()
